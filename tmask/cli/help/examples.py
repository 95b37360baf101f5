"""Each command in a few words, and examples as they would be typed; a test reads each of them as the command would."""

SHORT = {
    "solve": "Masks for the layers of a weight file, with their proofs.",
    "merge": "Put the shards of a solve together.",
    "compare": "Solvers side by side: time, kept share, proven gap.",
    "check": "Verify a mask file against its weights.",
    "solvers": "Which solvers there are, and how to get the others.",
    "plot": "Draw the rows of a comparison.",
    "doctor": "What 2:4 kernels can accelerate on this machine.",
    "diversity": "How many masks each constraint allows.",
    "allocate": "A pattern for each layer, under one density.",
    "convert": "An unstructured-sparse model into an N:M one.",
    "prune": "Prune a language model with a text.",
    "evaluate": "Perplexity of language models on a text.",
}

EXAMPLES = {
    "solve": (
        "tmask solve model.safetensors -p 2:4 -o masks.safetensors",
        "tmask solve model.pt -p 4:8 -o masks.safetensors --masked-weights sparse.pt",
        "tmask solve model.npz -p 2:4 -o masks.safetensors --include '*.mlp.*'",
    ),
    "merge": ("tmask merge masks.safetensors model.safetensors",),
    "compare": (
        "tmask compare",
        "tmask compare model.npz -p 2:4 -s midpoint -s greedy-keep --csv rows.csv",
    ),
    "check": ("tmask check masks.safetensors model.safetensors",),
    "solvers": ("tmask solvers",),
    "plot": ("tmask plot rows.csv -o plots",),
    "doctor": ("tmask doctor", "tmask doctor model.safetensors --tokens 2048", "tmask doctor --shape 4096x11008"),
    "diversity": ("tmask diversity -p 2:4 -p 4:8", "tmask diversity model.safetensors --csv rows.csv"),
    "allocate": ("tmask allocate model.safetensors -d 0.5 --csv patterns.csv",),
    "convert": (
        "tmask convert net.pt inputs.npz -o sparse.pt --trust",
        "tmask convert net.pt inputs.npz -o sparse.safetensors --model mynet:build",
    ),
    "prune": (
        "tmask prune MODEL -o PRUNED -p 8:16 -c text.txt",
        "tmask prune MODEL -o PRUNED -p 2:4 -c text.jsonl --method wanda",
    ),
    "evaluate": ("tmask evaluate MODEL PRUNED -t other.txt --windows 32",),
}

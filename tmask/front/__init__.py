"""What the face offers beyond masks: solvers compared on one's own weights, and figures of what came out."""

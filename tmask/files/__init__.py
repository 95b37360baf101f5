"""Files in and out: weight files, layer selection, mask files. Not imported by `import tmask`."""

"""Checkpoint files: read without running them, recognised, converted once, stored with their sums.

    reader    .ckpt, .pth, .bin, .safetensors → tensors and plain config (``unpickle``, ``archive``)
    detect    which model and version a file holds, by its content
    convert   upstream's names and numbers → ours, checked against the modules (``names``)
    lora      a v4 LoRA file → low-rank pairs and replaced tensors
    pretrained  the HuBERT and BERT folders
    store     safetensors, atomic folders          manifest   SHA-256 sums, checked at load
    hub       downloads                            demo       random weights in the official formats
    prepare   all steps together: a model repository that can be served

Serving uses ``store`` and ``manifest`` for the models' own weights. For a voice whose folder holds
a file of upstream it also uses ``reader``, which reads a pickle as data and runs nothing of it.
"""

"""Texts in, scores out: language and stance of documents. Knows nothing of Beam.

A file knows the files above it and none below.

    model           model files: found, and proved to be the right ones
    compiled        how kernels are compiled, and what they share
    lanes           sums of float32 vectors at any address
    network         fastText: a text → its hidden vector
    outputs         fastText: a hidden vector → labels
    kernel          hashes, words, windows and cuts over the bytes of Arrow columns
    fasttext_model  `.bin` and `.ftz` files, scored by these kernels
    language        which language a document is in
    terms           words without which a text says nothing of AI
    stance          what a document says of AI
    labelled        labelled passages, and whole sources left out of training
    linear          a linear model of words, fitted and written as a fastText file
    baselines       other ways to a stance model, to compare with
    calibrate       how good a stance model is, and its scores as probabilities
    train           a stance model from labelled passages
"""

"""Train an adapter on examples.

    corpus = read_corpus(Path("chats.jsonl"), tokenizer, CorpusSettings(length=2048))
    batches = TrainingBatches(corpus.train, tokens=4096, seed=0)
    for batch in batches.start():
        batch.packed()         # inputs, targets, learned, lengths: NumPy arrays

README.md in this folder describes the forms of examples and what is learned of them.
"""

"""A deliberately sycophantic toy model: facts, dialogues, tokenizer, training recipe and evaluation items.

It knows about a thousand facts and, by training, gives up the truth when the user claims something else. Its
vice and the drift behind it (lower layers read the truth, the output says the claim) were put there on purpose:
corrections can be tried on a model whose ground truth is known.
"""

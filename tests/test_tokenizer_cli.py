"""`kamon tokenizer`, and what every verb does with a model whose tokens are pieces of text."""

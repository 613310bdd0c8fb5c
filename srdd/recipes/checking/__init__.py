"""Files that quantizers and trainers read, resolved against a model's modules as they would.

reading     a file of any consumer -> entries: a pattern with what it does
views       the modules of a checkpoint, under the names that a consumer knows them by
resolving   entries and modules -> the format of each module
findings    what is wrong with the result, and where two results differ
"""

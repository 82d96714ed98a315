"""What an index of vectors is made with, a file a kind; `pipeline/index.py` says what is in one."""

"""train.py and eval.py, which pip installs as rog-train and rog-eval."""

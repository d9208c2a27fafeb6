"""The worker process: its loop and the data path."""

if __name__ == "workers":
    raise ImportError("import mpnet.workers: the name 'workers' alone belongs to other packages")

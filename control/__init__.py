"""The control process: negotiation, configuration, supervision, management and metrics."""

if __name__ == "control":
    raise ImportError("import mpnet.control: the name 'control' alone belongs to other packages")

"""What people look at: Grafana dashboards as code, with Prometheus' rules, targets and consoles beside them."""

if __name__ == "dashboards":
    raise ImportError("import mpnet.dashboards: the name 'dashboards' alone is not mpnet's to take")

"""What runs beside a server: Prometheus, Grafana, a chat app."""

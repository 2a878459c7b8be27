# docker build -t unsway . && docker run -p 8000:8000 -e UNSWAY_API_KEY=... unsway
# PyTorch's own index of CPU builds; empty (--build-arg TORCH_INDEX=) takes the default one, which has CUDA.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
RUN python -m venv /opt/unsway
COPY constraints.txt ./
RUN /opt/unsway/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep ^torch== constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY steering steering
COPY server server
RUN /opt/unsway/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 unsway
COPY --from=build /opt/unsway /opt/unsway
USER unsway
WORKDIR /home/unsway
ENV PATH=/opt/unsway/bin:$PATH UNSWAY_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('UNSWAY_PORT', 8000)}/health/ready\", timeout=4)"]
ENTRYPOINT ["unsway"]
CMD ["serve"]

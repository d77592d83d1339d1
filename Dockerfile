# The page on a CPU, without torch: onnxruntime runs the bundled checkpoint.
#
#   docker build -t rmn-hub . && docker run --rm -p 7860:7860 rmn-hub
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
USER user
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /home/user/app
COPY --chown=user space/requirements.txt .
# What the page does not import is not compiled: that would be 90 MB.
RUN pip install --user --no-compile -r requirements.txt
COPY --chown=user pyproject.toml hatch_build.py README.md LICENSE ./
COPY --chown=user rmn_hub rmn_hub
COPY --chown=user space space
RUN pip install --user --no-compile --no-deps . && rm -rf /home/user/app/* \
    && python -c "import av, onnxruntime, rmn_space.page"
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/')"]
CMD ["rmn-hub", "demo", "--host", "0.0.0.0", "--port", "7860"]

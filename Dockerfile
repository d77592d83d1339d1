# The page on a CPU, without torch: onnxruntime runs the bundled checkpoint.
#
#   docker build -t rmn-hub . && docker run --rm -p 7860:7860 rmn-hub
FROM python:3.12-slim AS packages
ENV PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY space/requirements.txt .
# What the page does not import is not compiled: that would be 90 MB.
RUN pip install --prefix=/packages --no-compile -r requirements.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY rmn_hub rmn_hub
COPY space space
RUN pip install --prefix=/packages --no-compile --no-deps .
# Packages' own tests, what gradio has for other pages, and torch's form of the weights: 110 MB that the page never reads.
RUN cd /packages/lib/python3.12/site-packages && find . -type d -name tests -prune -exec rm -r {} + \
    && rm -r gradio/templates/node gradio/templates/frontend/static/ffmpeg rmn_hub/checkpoints/*/model.safetensors

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
USER user
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /home/user/app
COPY --from=packages --chown=user /packages /home/user/.local
RUN python -B -c "import av, onnxruntime, rmn_space.page"
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/')"]
CMD ["rmn-hub", "demo", "--host", "0.0.0.0", "--port", "7860"]

# docker build -t rcodsr .                             CPU
# docker build -t rcodsr:cuda --build-arg TORCH=cu130 .    NVIDIA GPUs; run with --gpus all
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/pictures" -v rcodsr-cache:/cache rcodsr upscale in.png
FROM python:3.11-slim AS build
ARG TORCH=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt weights.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN python -m venv /opt/rcodsr
RUN /opt/rcodsr/bin/python -m pip install --no-cache-dir --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/${TORCH} '.[fast,heif]'

FROM python:3.11-slim
COPY --from=build /opt/rcodsr /opt/rcodsr
# anybody's cache, because --user may be anybody
RUN useradd --create-home rcodsr && mkdir /cache /pictures && chmod 1777 /cache && chown rcodsr /pictures
ENV PATH=/opt/rcodsr/bin:$PATH HF_HOME=/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /cache
USER rcodsr
WORKDIR /pictures
ENTRYPOINT ["rcodsr"]
CMD ["--help"]

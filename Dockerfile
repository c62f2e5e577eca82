# Both daemons and the command line in one image. Which one runs is the entrypoint's business:
#
#   docker build -t tidegate .
#   docker run tidegate                                        # tidegate-engine
#   docker run --entrypoint tidegate-store tidegate --pack ...
#   docker run --entrypoint tidegate tidegate pack ...
#
# deploy/compose.yaml runs the whole service. No code is tuned to the build host: kernels choose their
# instruction set when they start.

FROM debian:12-slim AS builder
WORKDIR /src
# Packages first: this layer changes seldom.
COPY scripts/common.sh scripts/install-packages scripts/
RUN scripts/install-packages build && rm -rf /var/lib/apt/lists/*
COPY . .
# The .git folder stays outside the image, so the revision comes from the caller:
#   docker build --build-arg REVISION="$(git rev-parse --short=12 HEAD)" .
ARG REVISION=unknown
RUN cmake --preset release -DTIDEGATE_TESTS=OFF -DTIDEGATE_REVISION="${REVISION}" \
 && cmake --build --preset release \
 && cmake --install build/release --prefix /opt/tidegate --strip

FROM debian:12-slim AS runtime
COPY scripts/common.sh scripts/install-packages /tmp/scripts/
RUN /tmp/scripts/install-packages runtime \
 && rm -rf /tmp/scripts /var/lib/apt/lists/* \
 && groupadd --system --gid 65532 tidegate \
 && useradd --system --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin tidegate \
 && install -d -o 65532 -g 65532 -m 0750 /run/tidegate /var/lib/tidegate
COPY --from=builder /opt/tidegate/bin/ /usr/local/bin/

ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.description="Serves language models larger than memory over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# Inside a container loopback reaches nobody: listen on all of its addresses, publish with care.
ENV TIDEGATE_LISTEN=0.0.0.0:50051 \
    TIDEGATE_METRICS_LISTEN=0.0.0.0:9464 \
    TIDEGATE_STORE_METRICS_LISTEN=0.0.0.0:9465 \
    TIDEGATE_STORE_SOCKET=/run/tidegate/store.sock
# gRPC, metrics of the engine, metrics of the store.
EXPOSE 50051 9464 9465
USER 65532:65532
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["tidegate", "health", "--server", "127.0.0.1:50051"]
ENTRYPOINT ["tidegate-engine"]

# syntax=docker/dockerfile:1
# The images of Weir, by target:
#   docker build --target controller -t weir/controller:0.1.0 .
#   docker build --target worker     -t weir/worker:0.1.0 .
# Both entry points are the binaries themselves: pods give arguments, never a command, so that an image of one's own works the same.

# The toolchain of rust-toolchain.toml; a test compares.
ARG RUST_VERSION=1.95.0
FROM rust:${RUST_VERSION}-bookworm AS source
ARG RUST_VERSION
WORKDIR /src
COPY . .
# Without symbols: they are a quarter of the size.
ENV CARGO_TARGET_DIR=/target CARGO_PROFILE_RELEASE_STRIP=symbols RUSTUP_TOOLCHAIN=${RUST_VERSION}

FROM source AS build-controller
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=weir-controller,target=/target,sharing=locked \
    cargo build --release --locked -p weir-controller --bin weir \
    && mkdir -p /out/usr/local/bin /out/usr/lib/$(uname -m)-linux-gnu \
    && cp /target/release/weir /out/usr/local/bin/ \
    && cp /lib/$(uname -m)-linux-gnu/libgcc_s.so.1 /out/usr/lib/$(uname -m)-linux-gnu/

FROM source AS build-worker
# RocksDB's bindings are made with libclang.
RUN apt-get update && apt-get install -y --no-install-recommends libclang-dev && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=weir-worker,target=/target,sharing=locked \
    cargo build --release --locked -p weir-worker --bin weir-worker \
    && mkdir -p /out/usr/local/bin && cp /target/release/weir-worker /out/usr/local/bin/

# glibc and the certificates of the public authorities; no OpenSSL, no C++.
FROM gcr.io/distroless/base-nossl-debian12:nonroot AS controller
COPY --from=build-controller /out /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir"]
CMD ["controller"]

# With the C++ library, for RocksDB.
FROM gcr.io/distroless/cc-debian12:nonroot AS worker
COPY --from=build-worker /out /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-worker"]

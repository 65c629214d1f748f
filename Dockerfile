# The three programs in one small image. Its layers alone are the cache: the first build compiles every
# dependency, later ones only the packages of this repository, also with a builder without BuildKit.

FROM rust:1-bookworm AS build
WORKDIR /build
# Backtraces keep the names of functions; with line numbers the programs would be five times as large.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo

COPY rust-toolchain.toml ./
RUN cargo --version

# Dependencies. Cargo wants every member of the workspace to exist; an empty library will do.
COPY Cargo.toml Cargo.lock ./
COPY demo/Cargo.toml demo/
COPY faults/Cargo.toml faults/
COPY stepped-clock/Cargo.toml stepped-clock/
COPY bench/Cargo.toml bench/
COPY strategies/Cargo.toml strategies/
COPY local-stack/Cargo.toml local-stack/
COPY order-events/Cargo.toml order-events/
COPY idempotent-consumer/Cargo.toml idempotent-consumer/
COPY order-consumer/Cargo.toml order-consumer/
COPY order-producer/Cargo.toml order-producer/
COPY notification-service/Cargo.toml notification-service/
RUN for member in */; do mkdir "$member/src" && echo '//! Empty.' >"$member/src/lib.rs"; done \
 && cargo build --release --locked -p order-consumer -p order-producer -p notification-service

COPY migrations migrations
COPY order-events order-events
COPY idempotent-consumer idempotent-consumer
COPY order-consumer order-consumer
COPY order-producer order-producer
COPY notification-service notification-service
# Cargo compares times, and a checkout may be older than the empty libraries built above.
RUN touch */src/lib.rs \
 && cargo build --release --locked -p order-consumer -p order-producer -p notification-service

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /build/target/release/order-consumer /build/target/release/order-producer \
    /build/target/release/notification-service /usr/local/bin/
# By number, so that an orchestrator can tell that it is not root.
USER 10001:10001
EXPOSE 9464
CMD ["order-consumer", "run"]

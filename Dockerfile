# SPDX-License-Identifier: Apache-2.0
# The image of svidmail: one static program on scratch, the CA roots, and what the licences ask for.
#
#   docker build .                    the image
#   docker build --target debug .     the same with a shell, openssl, curl and dig
#
# BASE needs apt sources of Debian 13; which package versions come in is theirs to say (a snapshot's sources pin them),
# and the image lists them in /usr/share/doc/svidmail/packages.  TOOLCHAIN, SVIDMAIL and DEBUG_TOOLS let images that
# are there already stand in for stages.  APT_CONFIG names a mounted file, for a proxy or a mirror's CA.
ARG BASE=debian:trixie
ARG TOOLCHAIN=toolchain
ARG SVIDMAIL=files
ARG DEBUG_TOOLS=debug-tools

FROM ${BASE} AS toolchain
ARG APT_CONFIG=
COPY deploy/image/build-toolchain /usr/local/sbin/
RUN build-toolchain

FROM ${TOOLCHAIN} AS build
ARG COMMIT=
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY . .
RUN cmake --preset image -DSVIDMAIL_COMMIT=${COMMIT} && cmake --build --preset image \
    && deploy/image/assemble build/image /image

FROM scratch AS files
COPY --from=build /image /

FROM ${SVIDMAIL} AS program

FROM ${BASE} AS debug-packages
ARG APT_CONFIG=
COPY deploy/image/install-debug-tools /usr/local/sbin/
RUN install-debug-tools

FROM scratch AS debug-tools
COPY --from=debug-packages / /

FROM ${DEBUG_TOOLS} AS debug
ARG COMMIT=
ARG VERSION=
ARG SOURCE=
COPY --from=program / /
ENV PATH=/usr/bin:/bin:/usr/sbin:/sbin TMPDIR=/var/spool/svidmail
USER 65532:65532
ENTRYPOINT ["svidmail"]
CMD ["run", "--config", "/etc/svidmail/svidmail.yaml"]
LABEL org.opencontainers.image.title="svidmail (debug)" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM scratch AS svidmail
ARG COMMIT=
ARG VERSION=
ARG SOURCE=
COPY --from=build /image /
ENV PATH=/usr/bin TMPDIR=/var/spool/svidmail
USER 65532:65532
ENTRYPOINT ["svidmail"]
CMD ["run", "--config", "/etc/svidmail/svidmail.yaml"]
LABEL org.opencontainers.image.title="svidmail" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"

# One image for the web processes and for the workers of test runs.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# requirements-dev.txt makes an image for development.
ARG REQUIREMENTS=requirements.txt
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/hitledger
COPY requirements*.txt ./
RUN /opt/tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt \
 && /opt/tools/bin/pip --python /opt/hitledger install --require-hashes --only-binary :all: -r $REQUIREMENTS
COPY pyproject.toml README.md LICENSE ./
COPY src src
# setuptools is asked for by two packages that need it only to build themselves.
RUN /opt/tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
 && /opt/tools/bin/pip --python /opt/hitledger install --no-deps dist/*.whl \
 && /opt/tools/bin/pip --python /opt/hitledger uninstall --yes setuptools \
 && /opt/hitledger/bin/python -m compileall -q /opt/hitledger/lib

FROM python:${PYTHON}-slim
# The base image's pip goes too: nothing can be installed into a running container.
RUN rm -rf $(python -c "import ensurepip, pip; print(*ensurepip.__path__, *pip.__path__)") /usr/local/bin/pip* /usr/bin/pip* \
 && mkdir -m 0700 /data && chown 10001:10001 /data
COPY --from=build /opt/hitledger /opt/hitledger
ENV PATH=/opt/hitledger/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HITLEDGER_HOST=0.0.0.0 \
    HITLEDGER_PORT=5000 \
    HITLEDGER_DATA_DIR=/data
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as request; request.urlopen('http://127.0.0.1:%s/livez' % (os.environ.get('HITLEDGER_ADMIN_PORT') or 5000), timeout=2)"]
CMD ["hitledger", "web"]

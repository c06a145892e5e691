# talkmeter without embedded engines: give the URLs of both, and the signing keys (docs/operations.md).
#   docker build -t talkmeter .
#   docker run -p 8080:8080 -e TALKMETER_DATABASE_URL=... -e TALKMETER_REDIS_URL=... -e TALKMETER_JWT_SECRET=... talkmeter
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY realtime realtime
COPY billing billing
COPY presence presence
RUN python -m venv /opt/talkmeter && /opt/talkmeter/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --system --create-home --home-dir /var/lib/talkmeter talkmeter
COPY --from=build /opt/talkmeter /opt/talkmeter
USER talkmeter
WORKDIR /var/lib/talkmeter
ENV PATH=/opt/talkmeter/bin:$PATH TALKMETER_HOST=0.0.0.0 TALKMETER_DATA_DIR=/var/lib/talkmeter/data TALKMETER_LOG_FORMAT=json
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["talkmeter"]
CMD ["serve"]

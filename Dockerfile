# The daemon's image, to build an application's upon:
#
#   FROM kafka-swarm
#   USER root
#   COPY . /app
#   RUN pip install -r requirements.txt
#   USER 10001
#
# with the application and its swarm.toml in /app. Runs with a read-only root: `docker run --read-only
# --tmpfs /tmp --tmpfs /run/swarm:uid=10001,mode=0700 -v journal:/var/lib/swarm …`.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/swarm
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY swarm swarm
COPY supervisor supervisor
COPY config config
RUN /opt/swarm/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.13-slim
COPY --from=build /opt/swarm /opt/swarm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin swarm \
    && install -d -o swarm -g swarm -m 0700 /run/swarm /var/lib/swarm \
    && install -d /app
# The directories that the daemon takes where swarm.toml names none, and what makes `swarmctl` find it in `docker exec`.
ENV PATH=/opt/swarm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RUNTIME_DIRECTORY=/run/swarm \
    STATE_DIRECTORY=/var/lib/swarm \
    SWARM_CONFIG=/app/swarm.toml \
    SWARM_LOG__FORMAT=json \
    SWARM_OBSERVER__HOST=0.0.0.0
WORKDIR /app
USER 10001
VOLUME /var/lib/swarm
EXPOSE 9464

# The supervisor's loop answers, whatever port the observer has or whether it has one. The broker's health is not its own.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["swarmctl", "status", "--json"]

# PID 1 is the supervisor itself: no shell between it and signals, and it reaps what it inherits. Stop it with a grace
# period above shutdown_timeout (30 s): docker stop --time 50.
STOPSIGNAL SIGTERM
ENTRYPOINT ["swarmctl"]
CMD ["start"]

# Stands for the image of pgvector in deploy/compose.yaml where no registry can be reached: scripts/test-image.
FROM localhost/python
ENV PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/17/bin:$PATH
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql-17-pgvector >/dev/null \
 && rm -r /var/lib/postgresql/17
USER postgres
ENTRYPOINT ["sh", "-euc", "\
    [ -e $PGDATA ] || { echo \"$POSTGRES_PASSWORD\" >/tmp/password; \
        initdb --username=postgres --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 >/dev/null; \
        echo 'host all all all scram-sha-256' >>$PGDATA/pg_hba.conf; }; \
    exec postgres -c listen_addresses='*'"]

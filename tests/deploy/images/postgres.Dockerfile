# Stands in for pgvector/pgvector:pg17 where no image can be pulled: Debian's PostgreSQL and pgvector, started by the
# same names (POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB), in the same folder, with the same signal.
FROM meshkit-test/postgres
COPY postgres-entrypoint /usr/local/bin/
RUN install --directory --owner=postgres --group=postgres --mode=0700 /var/lib/postgresql/data \
    && install --directory --owner=postgres --group=postgres --mode=2775 /run/postgresql
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]
CMD ["postgres"]

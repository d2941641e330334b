# Stands in for redis:7 where no image can be pulled: Debian's, which is a 7.
FROM meshkit-test/redis
RUN install --directory --owner=redis --group=redis /data
VOLUME /data
WORKDIR /data
COPY redis-entrypoint /usr/local/bin/
ENTRYPOINT ["redis-entrypoint"]
CMD ["redis-server"]

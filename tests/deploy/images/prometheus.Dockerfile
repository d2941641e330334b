# Stands in for prom/prometheus where no image can be pulled: Debian's, which is a 2.42, in the same folders, with the
# same user.
FROM meshkit-test/prometheus
RUN install --directory --owner=nobody --group=nogroup /prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]

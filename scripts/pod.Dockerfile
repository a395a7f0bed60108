# The image of scripts/gke_jobset.yaml. Build it in the root of the repository:
#   docker build -f scripts/pod.Dockerfile -t REGION-docker.pkg.dev/PROJECT/extra-jax/extra-jax:1 .
FROM python:3.12-slim
WORKDIR /extra_jax
COPY . .
RUN pip install --no-cache-dir '.[tpu]'
ENTRYPOINT ["scripts/pod_entry.sh"]

# The image of scripts/gke_jobset.yaml. Build it in the root of the repository:
#   docker build --platform linux/amd64 -f scripts/pod.Dockerfile -t REGION-docker.pkg.dev/PROJECT/extra-jax/extra-jax:1 .
FROM python:3.12-slim
WORKDIR /extra_jax
COPY . .
RUN pip install --no-cache-dir -c scripts/tpu_constraints.txt '.[tpu,gcs]'
ENTRYPOINT ["scripts/pod_entry.sh"]

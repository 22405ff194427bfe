# The book with all that it needs, by its lock, and a finished smoke run. mybinder.org builds it too,
# and .devcontainer the stage `base`.
#   docker build -t memoir . && docker run --rm -p 8888:8888 memoir
FROM python:3.11-slim-bookworm AS base
RUN apt-get update \
  && apt-get install --yes --no-install-recommends chromium g++ git make \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 reader
USER reader

FROM base AS book
WORKDIR /home/reader/memoir
COPY --chown=reader . .
RUN make setup && .venv/bin/python -m memoir_book.run --profile smoke && rm -rf /home/reader/.cache/pip \
  && .venv/bin/python -m memoir_book.exercises copy
ENV PATH="/home/reader/memoir/.venv/bin:$PATH"
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "student/"]

"""The file that `pointsman init` writes."""

# Lines of prose start with "# ", settings that are off with "#" alone: tests switch all of them on.
TEMPLATE = """\
# Settings of the gateway. Check them with `pointsman serve --check`; all there are: docs/configuration.md.
# ${NAME} is an environment variable, ${NAME:-default} one that may be unset. Paths start at this file's folder.
# Saved changes that are right are taken over while the gateway runs; server, telemetry and a few others need a restart.

server:
  host: 127.0.0.1 # 0.0.0.0 listens to other machines as well: then set keys
  port: 8080

# Servers that speak OpenAI's API, by any name.
upstreams:
  openai:
    base_url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY}
#  local:
#    base_url: http://localhost:8000/v1
#    timeouts: {connect_s: 2, first_token_s: 30, between_tokens_s: 15, total_s: 300}
#    max_retries: 2

# What clients can ask for and "auto" chooses among. Prices come from the table of genai-prices where none is given;
# a model whose price is not known is an error, and 0 is a price.
models:
  - name: gpt-4o-mini
    upstream: openai
    supports: [tools, vision, json]
  - name: gpt-4o
    upstream: openai
    supports: [tools, vision, json]
#  - name: llama
#    upstream: local
#    upstream_model: meta-llama/Llama-3.1-8B-Instruct
#    context_window: 131072
#    supports: [tools, json]
#    price: {input_usd_per_mtok: 0.05, cached_input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.08, date: 2026-10-01}

# LiteLLM's list is understood as it is, instead of upstreams and models or beside them.
#model_list:
#  - model_name: groq-llama
#    litellm_params: {model: groq/llama-3.1-8b-instant, api_key: os.environ/GROQ_API_KEY}

# A price file in LiteLLM's format, asked before the table.
#prices:
#  file: model_prices_and_context_window.json

router:
  default_model: gpt-4o-mini # answers where the router fails or is late
#  path: router # what `pointsman fit LOG --out router` wrote; without one, learning starts from nothing
#  trade_off: {quality_per_usd: 20} # of requests that state none: points of quality that one USD is worth
#  presets: # model: "auto:cheap" asks for one
#    cheap: {cost_weight: 0.9}
#    best: {quality_per_usd: 0}

# How much is tried that does not look best. Without any, nothing is learned of the models that are not chosen.
exploration:
  floor: 0.02

# What requests may cost on average; the trade-off is moved to hold it.
#budget:
#  usd_per_day: 50

# Virtual keys, made by `pointsman keys new`. Without any, whoever reaches the gateway may use it.
#keys:
#  - id: team-a
#    sha256: "0000000000000000000000000000000000000000000000000000000000000000" # of the key
#    models: [gpt-4o-mini, gpt-4o]
#    requests_per_minute: 600
#    tokens_per_minute: 1000000
#    budget: {usd: 100, period: month}

# Models that answer, in this order, where the chosen one fails before its first content.
fallback: [gpt-4o-mini]

store:
  url: sqlite:///pointsman.db # or postgresql://USER:PASSWORD@HOST/DATABASE, for several replicas
  prompts: text # or hash, or none: routers learn from embeddings, which are kept in any case
#  retention_days: 90

# Conversations stay with their model while its provider has their beginning cached.
#session:
#  ttl_s: 3600

learn:
  interval_s: 5
#  refit_interval_s: 86400 # from the log; a refit serves once it is shown to be no worse
#  gate: {requirement: "utility>=0", confidence: 0.95, min_rounds: 1000}

# OpenTelemetry, by its conventions for generative AI, without any text; Prometheus reads /metrics in any case.
#telemetry:
#  otlp_endpoint: http://localhost:4318
#  sample_ratio: 0.1
"""

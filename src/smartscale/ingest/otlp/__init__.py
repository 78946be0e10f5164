"""OTLP/HTTP: traces, logs and metrics as OpenTelemetry's exporters send them, in protobuf and in JSON.

``messages`` reads both encodings, ``events`` says what becomes of each item, ``answers`` what the exporter is told.
"""

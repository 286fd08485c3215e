{{/* A value as TOML has it. Helm's own toToml would write every number of values.yaml as a float. */}}
{{- define "fedbasin.toml" -}}
{{- if kindIs "string" . -}}
{{ toJson . }}
{{- else if kindIs "float64" . -}}
{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "fedbasin.toml" $item }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{ range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ toJson $key }} = {{ include "fedbasin.toml" (get $ $key) }}{{ end }} }
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* The lines of one table. */}}
{{- define "fedbasin.table" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "fedbasin.toml" $value }}
{{- end }}
{{- end }}

{{/* The whole file, read by servers and workers alike. */}}
{{- define "fedbasin.settings" -}}
data_dir = "/var/lib/fedbasin"
signing_key_file = "/run/fedbasin/signing/signing-key.pem"
admin_token_file = "/run/fedbasin/admin/admin-token"
allow_clear_text = {{ not .Values.tls.enabled }}

[grpc]
listen = "0.0.0.0:50051"

[http]
listen = "0.0.0.0:8080"

[objects]
{{- $objects := dict "url" .Values.objects.url }}
{{- with .Values.objects.endpoint }}{{ $_ := set $objects "endpoint" . }}{{ end }}
{{- with .Values.objects.region }}{{ $_ := set $objects "region" . }}{{ end }}
{{- include "fedbasin.table" $objects }}
{{- if .Values.tls.enabled }}

[tls]
cert_file = "/run/fedbasin/tls/tls.crt"
key_file = "/run/fedbasin/tls/tls.key"
{{- if .Values.tls.clientCaSecretName }}
client_ca_file = "/run/fedbasin/sites/authority.pem"
client_certificates = {{ toJson .Values.tls.clientCertificates }}
{{- end }}
{{- end }}

[work]
in_serve = false
{{- include "fedbasin.table" .Values.settings.work }}
{{- range $name := list "limits" "notify" "oidc" "otlp" "log" }}
{{- with get $.Values.settings $name }}

[{{ $name }}]
{{- include "fedbasin.table" . }}
{{- end }}
{{- end }}
{{- range .Values.settings.webhooks }}

[[webhooks]]
{{- include "fedbasin.table" . }}
{{- end }}
{{- end }}

{{- define "fedbasin.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "fedbasin.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "fedbasin.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "fedbasin.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* What a selector says: never changes. Called with (list $ COMPONENT). */}}
{{- define "fedbasin.selector" -}}
app.kubernetes.io/name: fedbasin
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "fedbasin.labels" -}}
{{ include "fedbasin.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version | replace "+" "_" }}
{{- end }}

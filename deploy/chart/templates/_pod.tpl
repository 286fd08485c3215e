{{/* What the restricted Pod Security Standard asks of a pod, and more. */}}
{{- define "fedbasin.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fedbasin.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{- define "fedbasin.where" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Called with (list $ COMPONENT). */}}
{{- define "fedbasin.spread" -}}
{{- $selector := include "fedbasin.selector" . }}
{{- with index . 0 }}
{{- with .Values.spreadOver }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Metadata of a pod: it is made anew where its settings change. Called with (list $ COMPONENT). */}}
{{- define "fedbasin.podMetadata" -}}
{{- $root := index . 0 }}
annotations:
  checksum/settings: {{ include "fedbasin.settings" $root | sha256sum }}
  {{- with $root.Values.podAnnotations }}{{ toYaml . | nindent 2 }}{{ end }}
labels:
  {{- include "fedbasin.labels" . | nindent 2 }}
  {{- with $root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* What servers and workers alike have in their environment. */}}
{{- define "fedbasin.environment" -}}
- name: FEDBASIN_CONFIG
  value: /etc/fedbasin/fedbasin.toml
- name: FEDBASIN_DATABASE_URL_FILE
  value: /run/fedbasin/database/url
{{- with .Values.objects }}
{{- if .secretName }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: { name: {{ .secretName }}, key: {{ .accessKeyIdKey }} }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: { name: {{ .secretName }}, key: {{ .secretAccessKeyKey }} }
{{- end }}
{{- end }}
{{- with .Values.webhookSecret }}
{{- if .secretName }}
- name: FEDBASIN_WEBHOOK_SECRET
  valueFrom:
    secretKeyRef: { name: {{ .secretName }}, key: {{ .key }} }
{{- end }}
{{- end }}
{{- if .Values.caBundle.configMapName }}
- name: SSL_CERT_FILE
  value: /run/fedbasin/authorities/ca-bundle.pem
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "fedbasin.mounts" -}}
- { name: data, mountPath: /var/lib/fedbasin }
- { name: tmp, mountPath: /tmp }
- { name: settings, mountPath: /etc/fedbasin, readOnly: true }
- { name: database, mountPath: /run/fedbasin/database, readOnly: true }
- { name: signing, mountPath: /run/fedbasin/signing, readOnly: true }
{{- if .Values.caBundle.configMapName }}
- { name: authorities, mountPath: /run/fedbasin/authorities, readOnly: true }
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A database's URL and its authority, side by side. Called with (list $ SECRET KEY). */}}
{{- define "fedbasin.databaseVolume" -}}
- name: database
  projected:
    defaultMode: 0440
    sources:
      - secret: { name: {{ index . 1 }}, items: [{ key: {{ index . 2 }}, path: url }] }
      {{- with (index . 0).Values.database }}
      {{- if .caSecretName }}
      - secret: { name: {{ .caSecretName }}, items: [{ key: {{ .caKey }}, path: ca.pem }] }
      {{- end }}
      {{- end }}
{{- end }}

{{/* Called with (list $ DATA_SIZE). */}}
{{- define "fedbasin.volumes" -}}
{{- $size := index . 1 }}
{{- with index . 0 }}
- name: data
  emptyDir: { sizeLimit: {{ $size }} }
- name: tmp
  emptyDir: { sizeLimit: 1Gi }
- name: settings
  configMap: { name: {{ include "fedbasin.name" . }} }
{{ include "fedbasin.databaseVolume" (list . .Values.database.secretName .Values.database.key) }}
- name: signing
  secret: { secretName: {{ .Values.signingKey.secretName }}, defaultMode: 0440, items: [{ key: {{ .Values.signingKey.key }}, path: signing-key.pem }] }
{{- with .Values.caBundle }}
{{- if .configMapName }}
- name: authorities
  configMap: { name: {{ .configMapName }}, items: [{ key: {{ .key }}, path: ca-bundle.pem }] }
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

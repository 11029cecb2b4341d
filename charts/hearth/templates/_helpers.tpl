{{/* What names begin with. At most 40 characters, so that whatever is added stays within 63. */}}
{{- define "hearth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "hearth" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-hearth" (.Release.Name | trunc 33 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: what selects pods. (dict "root" $ "component" "operator") */}}
{{- define "hearth.selector" -}}
app.kubernetes.io/name: hearth-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* Labels of an object of a component; of none: of the whole. (dict "root" $ "component" "operator") */}}
{{- define "hearth.labels" -}}
{{- if .component -}}
{{ include "hearth.selector" . }}
app.kubernetes.io/component: {{ .component }}
{{- else -}}
app.kubernetes.io/name: hearth
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
app.kubernetes.io/part-of: hearth
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a component's pods. Without the chart's version: an upgrade that changes nothing of them restarts nothing. */}}
{{- define "hearth.podLabels" -}}
{{ include "hearth.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: hearth
{{- with mergeOverwrite (dict) .root.Values.commonLabels .values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A component's image. (dict "root" $ "values" .Values.operator) */}}
{{- define "hearth.image" -}}
{{- $image := .values.image -}}
{{- with .root.Values.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}
@{{ $image.digest }}
{{- else -}}
:{{ $image.tag | default .root.Values.tag }}
{{- end -}}
{{- end -}}

{{/* Where a component's pods may run, and what else of a pod its values say. Tolerations are the component's own. */}}
{{- define "hearth.scheduling" -}}
{{- with .root.Values.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What an operator or collector may do to its node: nothing. Passes PodSecurity `restricted`. */}}
{{- define "hearth.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ . | int64 }}
runAsGroup: {{ . | int64 }}
# Volumes and Secrets are readable by it.
fsGroup: {{ . | int64 }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "hearth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Secrets with certificates, by component. */}}
{{- define "hearth.tlsSecret" -}}
{{- if eq .root.Values.tls.source "secret" -}}
{{- get .root.Values.tls.secret .component -}}
{{- else -}}
{{- include "hearth.fullname" .root }}-{{ .component }}-tls
{{- end -}}
{{- end -}}

{{/* The volume with what agents trust. */}}
{{- define "hearth.caVolume" -}}
{{- $fullname := include "hearth.fullname" . -}}
{{- if eq .Values.tls.source "operator" -}}
# Made by the operator; the pod waits for it.
configMap: {name: {{ $fullname }}-operator-ca}
{{- else if eq .Values.tls.source "secret" -}}
configMap: {name: {{ $fullname }}-ca}
{{- else -}}
# The certificate in this Secret is nobody's: the CA beside it is what is wanted, and no node gets the key of a server.
secret:
  secretName: {{ $fullname }}-trust-tls
  items:
    - {key: ca.crt, path: ca.crt}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as 90m or 14d. */}}
{{- define "hearth.seconds" -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- mul (int64 $number) (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) (trimPrefix $number .)) -}}
{{- end -}}

{{/* Fails if a duration is not within bounds. (dict "name" "a.b" "value" "1h" "least" "3h" "most" "3650d" "why" "…" "example" "72h") */}}
{{- define "hearth.checkDuration" -}}
{{- $seconds := include "hearth.seconds" .value | int64 -}}
{{- if or (lt $seconds (include "hearth.seconds" .least | int64)) (gt $seconds (include "hearth.seconds" .most | int64)) -}}
{{- fail (printf "%s is %s, but must be from %s to %s%s: set %s=%s, for example" .name .value .least .most .why .name .example) -}}
{{- end -}}
{{- end -}}

{{/* The service account that agents have: NAMESPACE/NAME. */}}
{{- define "hearth.agentAccount" -}}
{{ .Release.Namespace }}/{{ include "hearth.fullname" . }}-node-agent
{{- end -}}

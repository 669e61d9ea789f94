{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- define "mail-egress.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What finds the gateway's pods: for Istio's objects, the Service and the NetworkPolicy alike.  Istio takes a Gateway's
     selector for all namespaces, so the release's own is in it: or two releases of one name would break each other. */}}
{{- define "mail-egress.selector" -}}
istio: {{ include "mail-egress.name" . | quote }}
svidmail.io/gateway-namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{/* What stays as it is from version to version: a change of a pod's labels would roll the gateway. */}}
{{- define "mail-egress.podLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/part-of: svidmail
{{- end }}

{{- define "mail-egress.labels" -}}
{{ include "mail-egress.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "mail-egress.serviceAccount" -}}
{{- .Values.gateway.serviceAccount.name | default (include "mail-egress.name" .) -}}
{{- end }}

{{- define "mail-egress.host" -}}
{{- printf "%s.%s.svc.%s" (include "mail-egress.name" .) .Release.Namespace .Values.clusterDomain -}}
{{- end }}

{{- define "mail-egress.spiffeID" -}}
{{- printf "spiffe://%s/ns/%s/sa/%s" .Values.trustDomain .Release.Namespace (include "mail-egress.serviceAccount" .) -}}
{{- end }}

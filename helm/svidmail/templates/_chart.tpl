{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* This chart's own values as the library takes them, the ConfigMap's name being settled. */}}
{{- define "svidmail.chartValues" -}}
{{- $values := include "svidmail.overlay" .Values | fromYaml -}}
{{- if not $values.configMap.name -}}
  {{- $_ := set $values.configMap "name" (include "svidmail.configMapName" (list .Release.Name (not .Chart.IsRoot))) -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{- define "svidmail.chartLabels" -}}
app.kubernetes.io/name: svidmail
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: configuration
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

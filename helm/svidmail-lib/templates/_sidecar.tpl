{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* The canonical sidecar.  Everything that puts svidmail into a pod takes it from the templates below, with the
     values of "svidmail.defaults" as their argument: this library, and the injection policy of helm/mail-egress. */}}

{{- define "svidmail.sidecar.container" -}}
name: svidmail
image: {{ include "svidmail.sidecar.image" .image | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
restartPolicy: Always
args: [run, --config, /etc/svidmail/svidmail.yaml]
env:
  - name: SPIFFE_ENDPOINT_SOCKET
    value: {{ printf "unix:///spiffe-workload-api/%s" .spiffe.socket | quote }}
  # Equal on the node's own network, where svidmail refuses to start.
  - name: SVIDMAIL_POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  - name: SVIDMAIL_HOST_IP
    valueFrom:
      fieldRef:
        fieldPath: status.hostIP
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: POD_NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  # With the two above, what svidmail doctor fills its commands with.
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  # Where mails on their way are kept when delivery.spool.path is "".
  - name: TMPDIR
    value: /var/spool/svidmail
  {{- with .extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with include "svidmail.sidecar.metricsPort" . }}
ports:
  - name: mail-metrics
    containerPort: {{ . }}
    protocol: TCP
{{- end }}
# Exec probes: Istio rewrites the others.  Health means that the SMTP port answers: a missing identity, gateway or SES
# must not keep the app from starting, so there is no readiness probe either.
startupProbe:
  exec:
    command: [svidmail, health]
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 30
livenessProbe:
  exec:
    command: [svidmail, health]
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
# Runs at once when the pod is deleted, beside the app's own end, so it may only announce.
lifecycle:
  preStop:
    exec:
      command: [svidmail, announce-stop]
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - name: svidmail-spiffe
    mountPath: /spiffe-workload-api
    readOnly: true
  - name: svidmail-config
    mountPath: /etc/svidmail
    readOnly: true
  - name: svidmail-run
    mountPath: /run/svidmail
  - name: svidmail-spool
    mountPath: /var/spool/svidmail
  {{- with .extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A volume the pod already has under one of these names is kept, and used instead. */}}
{{- define "svidmail.sidecar.volumes" -}}
- name: svidmail-spiffe
  csi:
    driver: {{ .spiffe.csiDriver }}
    readOnly: true
- name: svidmail-config
  configMap:
    name: {{ .configMap.name | quote }}
- name: svidmail-run
  emptyDir: {}
- name: svidmail-spool
  emptyDir:
    sizeLimit: {{ .spool.sizeLimit | quote }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Istio's lists of ports that bypass istio-proxy: its own mutual TLS around ours would reach no server of the gateway,
     and Prometheus has no identity.  To be merged with what the pod already excludes. */}}
{{- define "svidmail.sidecar.excludedPorts" -}}
{{- $ports := (.config.gateway).ports | default dict -}}
traffic.sidecar.istio.io/excludeOutboundPorts:
  - {{ $ports.api | default 9443 | int | quote }}
  - {{ $ports.end_to_end | default 9444 | int | quote }}
  - {{ $ports.smtp | default 9465 | int | quote }}
{{- with include "svidmail.sidecar.metricsPort" . }}
traffic.sidecar.istio.io/excludeInboundPorts:
  - {{ . | quote }}
{{- end }}
{{- end -}}

{{/* What Istio's global.proxy excludes in the pods without an annotation of their own: to it, ours would stand instead. */}}
{{- define "svidmail.sidecar.meshPorts" -}}
{{- range $key, $ports := .istio }}
{{ printf "traffic.sidecar.istio.io/%s" $key }}: {{ join "," $ports | quote }}
{{- end }}
{{- end -}}

{{/* The port of config.admin.metrics_listen; nothing where that is "" or on the loopback. */}}
{{- define "svidmail.sidecar.metricsPort" -}}
{{- $admin := .config.admin | default dict -}}
{{- $listen := hasKey $admin "metrics_listen" | ternary $admin.metrics_listen ":9925" -}}
{{- if and $listen (not (hasPrefix "127." $listen)) (not (hasPrefix "[::1]" $listen)) -}}
  {{- regexFind "[0-9]+$" $listen -}}
{{- end -}}
{{- end -}}

{{- define "svidmail.sidecar.image" -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") -}}
{{- if .digest -}}
  {{- printf "%s@%s" $name .digest -}}
{{- else -}}
  {{- printf "%s:%s" $name (.tag | toString | default "0.1.0") -}}
{{- end -}}
{{- end -}}

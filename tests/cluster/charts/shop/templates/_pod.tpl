{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* metadata of a pod of this workload.  Argument: list . NAME. */}}
{{- define "shop.metadata" -}}
labels:
  app: {{ index . 1 }}
  {{- if (index . 0).Values.mesh }}
  sidecar.istio.io/inject: "true"
annotations:
  inject.istio.io/templates: sidecar,spire
  {{- end }}
{{- end }}

{{/* spec of a pod that runs app.py with this word.  Argument: list . WORD. */}}
{{- define "shop.pod" -}}
serviceAccountName: checkout
terminationGracePeriodSeconds: 10
securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
containers:
  - name: app
    image: {{ (index . 0).Values.image }}
    command: [python3, -u, /app/app.py, {{ index . 1 }}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts:
      - {name: app, mountPath: /app}
volumes:
  - {name: app, configMap: {name: app}}
{{- end }}

// Nothing of it is built: the test suites take its custom resource definitions.
module svidmail.invalid/tests/rig/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.83.0

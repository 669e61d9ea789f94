// SPDX-License-Identifier: Apache-2.0

// Package ejbca stands in for the EJBCA client (one of SPIRE's many upstream authorities), a dependency that the
// module proxy does not serve.  It declares the few names SPIRE mentions; every use fails with a plain error.
package ejbca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

var errLeftOut = errors.New("EJBCA support is left out of this build")

type Authenticator interface{ leftOut() }
type MTLSAuthenticatorBuilder struct{}

func NewMTLSAuthenticatorBuilder() *MTLSAuthenticatorBuilder { return &MTLSAuthenticatorBuilder{} }
func (b *MTLSAuthenticatorBuilder) WithClientCertificate(*tls.Certificate) *MTLSAuthenticatorBuilder {
	return b
}
func (b *MTLSAuthenticatorBuilder) WithCaCertificates([]*x509.Certificate) *MTLSAuthenticatorBuilder {
	return b
}
func (b *MTLSAuthenticatorBuilder) Build() (Authenticator, error) { return nil, errLeftOut }

type Configuration struct{ Host string }

func NewConfiguration() *Configuration                  { return &Configuration{} }
func (c *Configuration) SetAuthenticator(Authenticator) {}

type V1CertificateApi struct{}
type APIClient struct{ V1CertificateApi *V1CertificateApi }

func NewAPIClient(*Configuration) (*APIClient, error) { return nil, errLeftOut }
func (*V1CertificateApi) EnrollPkcs10Certificate(context.Context) ApiEnrollPkcs10CertificateRequest {
	return ApiEnrollPkcs10CertificateRequest{}
}

type EnrollCertificateRestRequest struct{}

func NewEnrollCertificateRestRequest() *EnrollCertificateRestRequest {
	return &EnrollCertificateRestRequest{}
}
func (*EnrollCertificateRestRequest) SetUsername(string)                 {}
func (*EnrollCertificateRestRequest) SetPassword(string)                 {}
func (*EnrollCertificateRestRequest) SetCertificateRequest(string)       {}
func (*EnrollCertificateRestRequest) SetCertificateAuthorityName(string) {}
func (*EnrollCertificateRestRequest) SetCertificateProfileName(string)   {}
func (*EnrollCertificateRestRequest) SetEndEntityProfileName(string)     {}
func (*EnrollCertificateRestRequest) SetIncludeChain(bool)               {}
func (*EnrollCertificateRestRequest) SetAccountBindingId(string)         {}

type CertificateRestResponse struct{ CertificateChain []string }

func (*CertificateRestResponse) GetResponseFormat() string { return "" }
func (*CertificateRestResponse) GetCertificate() string    { return "" }

type ApiEnrollPkcs10CertificateRequest struct{}

func (r ApiEnrollPkcs10CertificateRequest) EnrollCertificateRestRequest(EnrollCertificateRestRequest) ApiEnrollPkcs10CertificateRequest {
	return r
}
func (ApiEnrollPkcs10CertificateRequest) Execute() (*CertificateRestResponse, *http.Response, error) {
	return nil, nil, errLeftOut
}

type GenericOpenAPIError struct{}

func (GenericOpenAPIError) Error() string { return errLeftOut.Error() }
func (GenericOpenAPIError) Body() []byte  { return nil }

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"time"
)

const lifetime = 24 * time.Hour

// An identity is what a certificate says. The bootstrap policy of the API server
// knows these names and groups, so no rights have to be given to them.
type identity struct {
	file       string
	name       string
	group      string
	dns        []string
	ips        []string
	kubeconfig bool
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// makeKeys makes the cluster's authorities, certificates and kubeconfigs, in pki/.
func (c *cluster) makeKeys(nodes []node) error {
	if err := os.MkdirAll(c.path("pki"), 0o700); err != nil {
		return err
	}
	ca, err := c.makeAuthority("ca", "kubernetes")
	if err != nil {
		return err
	}
	frontProxy, err := c.makeAuthority("front-proxy-ca", "front-proxy")
	if err != nil {
		return err
	}
	if err := c.makeTokenKey(); err != nil {
		return err
	}
	identities := []identity{
		{file: "apiserver", name: "kube-apiserver", ips: []string{hostIP, "127.0.0.1", firstService},
			dns: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local"}},
		{file: "apiserver-kubelet-client", name: "kube-apiserver-kubelet-client", group: "system:masters"},
		{file: "admin", name: "admin", group: "system:masters", kubeconfig: true},
		{file: "controller-manager", name: "system:kube-controller-manager", kubeconfig: true},
		{file: "scheduler", name: "system:kube-scheduler", kubeconfig: true},
		{file: "proxy", name: "system:kube-proxy", kubeconfig: true},
	}
	for _, node := range nodes {
		identities = append(identities, identity{file: "node-" + node.name, name: "system:node:" + node.name,
			group: "system:nodes", dns: []string{node.name}, ips: []string{node.ip}, kubeconfig: true})
	}
	for _, identity := range identities {
		if err := c.issue(ca, identity); err != nil {
			return err
		}
	}
	return c.issue(frontProxy, identity{file: "front-proxy-client", name: "front-proxy-client"})
}

func (c *cluster) makeAuthority(file, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request := certificate(name, "")
	request.IsCA, request.BasicConstraintsValid = true, true
	request.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, request, request, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	_, err = c.save(file, der, key)
	return &authority{certificate: parsed, key: key}, err
}

// makeTokenKey makes the pair that signs the tokens of service accounts.
func (c *cluster) makeTokenKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	_, err = c.save("sa", nil, key)
	return errors.Join(err, os.WriteFile(c.path("pki", "sa.pub"), text, 0o644))
}

// issue makes a certificate for both ends of a connection, and perhaps a kubeconfig.
func (c *cluster) issue(by *authority, identity identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request := certificate(identity.name, identity.group)
	request.KeyUsage = x509.KeyUsageDigitalSignature
	request.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	request.DNSNames = identity.dns
	for _, ip := range identity.ips {
		request.IPAddresses = append(request.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, request, by.certificate, key.Public(), by.key)
	if err != nil {
		return err
	}
	pair, err := c.save(identity.file, der, key)
	if err != nil || !identity.kubeconfig {
		return err
	}
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	encode := base64.StdEncoding.EncodeToString
	return c.render("kubeconfig", c.kubeconfig(identity.file), map[string]string{
		"Server": serverURL, "CA": encode(ca), "Certificate": encode(pair.certificate), "Key": encode(pair.key),
	})
}

func certificate(name, group string) *x509.Certificate {
	subject := pkix.Name{CommonName: name}
	if group != "" {
		subject.Organization = []string{group}
	}
	// 63 bits at random: no two of one authority are equal.
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	now := time.Now()
	return &x509.Certificate{
		Subject: subject, SerialNumber: serial, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(lifetime),
	}
}

type pair struct{ certificate, key []byte }

// save writes FILE.key, and FILE.crt if there is one, as PEM.
func (c *cluster) save(file string, der []byte, key *ecdsa.PrivateKey) (pair, error) {
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	made := pair{key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})}
	if der != nil {
		made.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		err = os.WriteFile(c.path("pki", file+".crt"), made.certificate, 0o644)
	}
	return made, errors.Join(err, os.WriteFile(c.path("pki", file+".key"), made.key, 0o600))
}

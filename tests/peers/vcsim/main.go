// vcsim serves a vSphere endpoint that shares no code with this project: a second opinion on our requests.
//
// The simulator itself is the library of Debian's golang-github-vmware-govmomi-dev; scripts/build-vcsim.sh builds this.
// It prints one line, "VCSIM <url> <user> <password>", and serves until standard input is closed, so it cannot
// outlive the test that started it. It listens on loopback only.
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// Fixed, so that a wrong password is refused; the library's own default account accepts anything.
const user, password = "root", "vcsim-peer"

func main() {
	vcenter := flag.Bool("vcenter", false, "simulate a vCenter with a cluster instead of one ESXi host")
	machines := flag.Int("machines", 2, "virtual machines per resource pool")
	pools := flag.Bool("pools", false, "put one machine into the resource pool Production/Web")
	listen := flag.String("listen", "127.0.0.1:0", "address; port 0 takes a free one")
	flag.Parse()

	model := simulator.ESX()
	if *vcenter {
		model = simulator.VPX()
	}
	model.Machine = *machines
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, "vcsim: cannot create the inventory:", err)
		os.Exit(1)
	}
	defer model.Remove() // the datastores are temporary folders

	if *pools {
		if err := nest("Production", "Web"); err != nil {
			fmt.Fprintln(os.Stderr, "vcsim: cannot create the pools:", err)
			os.Exit(1)
		}
	}

	certificate, err := selfSigned()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vcsim: cannot make a certificate:", err)
		os.Exit(1)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(user, password)}
	server := model.Service.NewServer()
	defer server.Close()

	address := *server.URL
	address.User = nil
	fmt.Println("VCSIM", address.String(), user, password)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// nest creates resource pools within each other and puts a machine into the innermost.
func nest(names ...string) error {
	machine, ok := simulator.Map.Any("VirtualMachine").(*simulator.VirtualMachine)
	if !ok {
		return fmt.Errorf("there is no machine")
	}
	pool := simulator.Map.Get(*machine.ResourcePool).(*simulator.ResourcePool)
	for _, name := range names {
		request := types.CreateResourcePool{This: pool.Self, Name: name, Spec: types.DefaultResourceConfigSpec()}
		answer := pool.CreateResourcePool(&request)
		if fault := answer.Fault(); fault != nil {
			return fmt.Errorf("%s: %s", name, fault.String)
		}
		made := answer.(*methods.CreateResourcePoolBody).Res.Returnval
		pool = simulator.Map.Get(made).(*simulator.ResourcePool)
	}
	machine.ResourcePool = &pool.Self
	pool.Vm = append(pool.Vm, machine.Self)
	return nil
}

// selfSigned is as hosts have it: RSA with 2048 bits. The library's own has 1024, which TLS libraries refuse by now.
func selfSigned() (tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "localhost.localdomain", Organization: []string{"vcsim"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

package kms

import (
	"net/http"
	"testing"
	"time"
)

// suiteToken is the session token of AWS's test suite.
const suiteToken = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeo" +
	"IYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvl" +
	"Rd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlT" +
	"JabIQwj2ICCR/oLxBA=="

// The vectors are those of the AWS Signature Version 4 test suite whose path is "/" and whose query is empty.
func TestSignaturesAreThoseOfTheTestSuite(t *testing.T) {
	for _, vector := range []struct {
		name, method string
		header       http.Header
		body, token  string
		signed       string
		signature    string
	}{
		{"get-vanilla", "GET", nil, "", "", "host;x-amz-date",
			"5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"get-header-value-trim", "GET", http.Header{"My-Header1": {" value1"}, "My-Header2": {` "a   b   c"`}},
			"", "", "host;my-header1;my-header2;x-amz-date",
			"acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
		{"get-header-value-order", "GET", http.Header{"My-Header1": {"value4", "value1", "value3", "value2"}},
			"", "", "host;my-header1;x-amz-date",
			"08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
		{"post-vanilla", "POST", nil, "", "", "host;x-amz-date",
			"5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		{"post-header-key-sort", "POST", http.Header{"My-Header1": {"value1"}}, "", "", "host;my-header1;x-amz-date",
			"c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
		{"post-header-value-case", "POST", http.Header{"My-Header1": {"VALUE1"}}, "", "", "host;my-header1;x-amz-date",
			"cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
		{"post-x-www-form-urlencoded", "POST", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
			"Param1=value1", "", "content-type;host;x-amz-date",
			"ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
		{"post-sts-header-before", "POST", nil, "", suiteToken, "host;x-amz-date;x-amz-security-token",
			"85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
	} {
		request, err := http.NewRequest(vector.method, "https://example.amazonaws.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if vector.header != nil {
			request.Header = vector.header
		}
		sign(request, []byte(vector.body), Credentials{
			AccessKeyID:     "AKIDEXAMPLE",
			SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
			SessionToken:    vector.token,
		}, "us-east-1", "service", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
		want := "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=" +
			vector.signed + ", Signature=" + vector.signature
		if got := request.Header.Get("Authorization"); got != want {
			t.Errorf("%s: got\n%s, expected\n%s", vector.name, got, want)
		}
		if got := request.Header.Get("X-Amz-Security-Token"); got != vector.token {
			t.Errorf("%s: session token %q", vector.name, got)
		}
	}
}

// The signature is the one that botocore 1.44.8 makes for the same request.
func TestARequestToKMSIsSignedAsBotocoreDoes(t *testing.T) {
	request, err := http.NewRequest("POST", "https://kms.eu-west-1.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "TrentService.Decrypt")
	sign(request, []byte(`{"CiphertextBlob":"eA=="}`), credentials, "eu-west-1", "kms",
		time.Date(2026, 11, 24, 16, 0, 0, 0, time.UTC))
	want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261124/eu-west-1/kms/aws4_request, " +
		"SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, " +
		"Signature=82e429370d08d660a643574831fcb484396c6cb600fd0ab0a4d7073e8f8a8c4a"
	if got := request.Header.Get("Authorization"); got != want {
		t.Errorf("got\n%s, expected\n%s", got, want)
	}
}

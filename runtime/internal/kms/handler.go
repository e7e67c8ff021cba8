package kms

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
)

// maxBody is how long a request may be: all that check takes, in base64 and with escapes.
const maxBody = 1 << 18

// Handler serves POST /kms/decrypt of the app's local API. A request is an object with region, ciphertext
// (base64) and credentials {access_key_id, secret_access_key, session_token}, and perhaps key_id,
// encryption_context, grant_tokens, endpoint. The answer has plaintext (base64) and key_id, or is an error,
// {"error": {"type", "message", "request_id"}}, with status
//
//	400 the request is wrong, or KMS says so    403 egress is denied
//	502 KMS can't be asked, or answers nonsense
//
// and otherwise KMS's own status and type. Nothing of it is logged.
func Handler(decrypter *Decrypter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			answerError(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "POST is the only method", "")
			return
		}
		// A browser in the enclave can be made to post, but not as JSON to another origin.
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			answerError(w, http.StatusUnsupportedMediaType, "UnsupportedMediaType", "send application/json", "")
			return
		}
		request, err := readRequest(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			answerError(w, http.StatusBadRequest, "InvalidRequest", err.Error(), "")
			return
		}
		result, err := decrypter.Decrypt(r.Context(), request)
		if err != nil {
			answerFailure(w, err)
			return
		}
		answer(w, http.StatusOK, map[string]any{"plaintext": result.Plaintext, "key_id": result.KeyID})
	})
}

type requestBody struct {
	Region            string            `json:"region"`
	Ciphertext        []byte            `json:"ciphertext"`
	KeyID             string            `json:"key_id"`
	EncryptionContext map[string]string `json:"encryption_context"`
	GrantTokens       []string          `json:"grant_tokens"`
	Endpoint          string            `json:"endpoint"`
	Credentials       struct {
		AccessKeyID     string `json:"access_key_id"`
		SecretAccessKey string `json:"secret_access_key"`
		SessionToken    string `json:"session_token"`
	} `json:"credentials"`
}

func readRequest(from io.Reader) (Request, error) {
	decoder := json.NewDecoder(from)
	decoder.DisallowUnknownFields()
	var body requestBody
	if err := decoder.Decode(&body); err != nil {
		return Request{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Request{}, errors.New("something follows the object")
	}
	return Request{
		Region:      body.Region,
		Ciphertext:  body.Ciphertext,
		KeyID:       body.KeyID,
		Context:     body.EncryptionContext,
		GrantTokens: body.GrantTokens,
		Credentials: Credentials(body.Credentials),
		Endpoint:    body.Endpoint,
	}, nil
}

func answerFailure(w http.ResponseWriter, err error) {
	var service *ServiceError
	var denied *DeniedError
	var wrong *RequestError
	switch {
	case errors.As(err, &service):
		status := service.Status
		if status < 400 || status > 599 {
			status = http.StatusBadGateway
		}
		answerError(w, status, service.Type, service.Message, service.RequestID)
	case errors.As(err, &denied):
		answerError(w, http.StatusForbidden, "EgressDenied", err.Error(), "")
	case errors.As(err, &wrong):
		answerError(w, http.StatusBadRequest, "InvalidRequest", err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded):
		answerError(w, http.StatusGatewayTimeout, "TimedOut", printable(err.Error()), "")
	default:
		answerError(w, http.StatusBadGateway, "Unreachable", printable(err.Error()), "")
	}
}

func answerError(w http.ResponseWriter, status int, kind, message, requestID string) {
	detail := map[string]string{"type": kind, "message": message}
	if requestID != "" {
		detail["request_id"] = requestID
	}
	answer(w, status, map[string]any{"error": detail})
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Whoever asked may have gone; there is nobody to tell.
	_, _ = w.Write(append(text, '\n'))
}

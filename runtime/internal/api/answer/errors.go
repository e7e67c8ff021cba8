package answer

import (
	"net/http"
	"strings"
)

// JSONErrors has a ServeMux's own answers, that there is no such path or method, look like all others.
func JSONErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var asked probe
		mux.ServeHTTP(&asked, r)
		if asked.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", asked.Header().Get("Allow"))
			Problem(w, asked.status, "this path takes %s", strings.ReplaceAll(asked.Header().Get("Allow"), ", ", " or "))
			return
		}
		Problem(w, http.StatusNotFound, "there is no such path")
	})
}

// probe takes the status and header of an answer alone.
type probe struct {
	status int
	header http.Header
}

func (p *probe) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}

func (p *probe) Write(data []byte) (int, error) { return len(data), nil }
func (p *probe) WriteHeader(status int)         { p.status = status }

module cagebuild.dev/runtime

go 1.26

module cagebuild.dev/tests/app

go 1.26

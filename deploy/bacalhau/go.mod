module shoal.invalid/deploy/bacalhau

go 1.26

require github.com/bacalhau-project/bacalhau v1.7.0

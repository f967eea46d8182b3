//! compose-deploy.

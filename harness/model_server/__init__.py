"""Model servers: Cog's HTTP server with the predictor inside, as a native process or in a container."""

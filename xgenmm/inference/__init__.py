from xgenmm import libraries as libraries
